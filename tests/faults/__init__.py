"""What the pipeline survives, counted: kills at any moment, promotions at once, input that is not friendly."""
