"""What the daemon needs of the machine that it runs on."""
