"""The commands of training, a module each; main has `prepare`, `train` and the group `models`."""
