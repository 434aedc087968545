"""Delivery takes events from the buffer, sends them to Growlytics, and decides what follows from each answer."""
