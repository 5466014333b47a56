"""What was asked of each fleet, second by second: what the operator's autoscaler reads (DESIGN §10)."""
