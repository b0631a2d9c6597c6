"""Pictures and how alike they are: what localization and the audit share."""
