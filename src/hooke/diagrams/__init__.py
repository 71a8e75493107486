"""Pictures of task graphs: a layered layout (pure), and the picture as SVG, Mermaid and text.

It knows boxes, arrows and states by name. It knows nothing of tasks, runs and pages: callers pass values. Imports `base`.
"""
