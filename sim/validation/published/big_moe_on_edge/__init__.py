"""Qwen3-30B-A3B on a phone: its telemetry, the phone as the time model sees it, the tables, the prediction."""
