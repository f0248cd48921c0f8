"""Updates: the state machine, its steps, the daemon that starts them, and the reports about them."""
