"""One call of RefinedPipeline: its arguments, start images, random numbers and output."""
