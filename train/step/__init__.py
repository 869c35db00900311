"""One update as one compiled graph: what it computes, its options, what it reports; and evaluation."""
