"""Channels: how a page reaches somebody. One small class each, behind ``channel.Channel``."""
