"""HTTP/1.1 for a server: connections, requests and answers. Knows nothing of events."""
