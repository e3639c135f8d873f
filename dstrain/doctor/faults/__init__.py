"""The faults that cost months, as they looked then: each is planted, and must fail the proof that is there for it."""
