"""growlytics-forwarder: accepts analytics events at once and forwards them to Growlytics."""

__version__ = "0.1.0"
