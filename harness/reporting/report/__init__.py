"""One self-contained HTML file about finished or running grids.

Knows what people want to see and in which order; refuses to know how a figure is estimated.
"""
