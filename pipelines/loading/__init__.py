"""Load pipelines and the parts of a RefinedPipeline; check what can be checked before a download."""
