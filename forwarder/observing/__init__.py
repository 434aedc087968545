"""What operators see: metrics, logs, recent happenings, receipts and the forecast."""
