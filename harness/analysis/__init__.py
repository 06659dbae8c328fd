"""Estimators over records. Knows figures; refuses to know where records come from, Ray and torch."""
