"""Layers computed for fewer tokens or faster: first and last layer, head, packed weights, compiled middle."""
