"""The Label Studio side of SteerSeg."""
