"""The laboratory: data, models, training and fair comparisons of pruning methods (extra ``[lab]``)."""
