"""FakeXplain (ICLR 2026): a detector that answers with reasoning, boxes, tags and a verdict."""
