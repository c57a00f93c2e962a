"""What pruning costs on this machine: mask updates, training steps, memory."""
