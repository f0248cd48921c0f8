"""A model on its way to the device: the steps, the state machine, when they run and what is reported."""
