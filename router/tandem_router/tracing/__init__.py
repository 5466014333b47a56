"""Traces: W3C context taken over from clients and given to both legs, spans with OpenTelemetry's GenAI names."""
