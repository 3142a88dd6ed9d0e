"""Records → one HTML file, with its table as CSV and its plots as PNG and SVG beside it."""
