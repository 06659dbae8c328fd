"""Encoders with a classification head, which read a text whole and answer no prompt. Refuses to know tasks."""
