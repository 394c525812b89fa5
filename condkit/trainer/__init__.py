"""Training, sampling and evaluating ControlNets."""
