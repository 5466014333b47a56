"""Control plane: watches the custom resources and their children, plans, applies, reports."""
