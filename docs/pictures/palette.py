"""The colors of the pages' pictures and widgets, as CSS variables, for the light and the dark theme."""

LIGHT = {
    "picture-ink": "#1c1c1c",
    "picture-note": "#545454",
    "picture-line": "#6b6b6b",
    "picture-blue": "#0b5c8f",
    "picture-red": "#a83a06",
    "picture-fill": "#f0f0f0",
    "picture-blue-fill": "#d6e8f5",
    "picture-red-fill": "#fbe0d0",
}
DARK = {
    "picture-ink": "#e8e8e8",
    "picture-note": "#b6b6b6",
    "picture-line": "#9a9a9a",
    "picture-blue": "#6cb8ee",
    "picture-red": "#f59e6c",
    "picture-fill": "#26292e",
    "picture-blue-fill": "#15384f",
    "picture-red-fill": "#4d2a15",
}
