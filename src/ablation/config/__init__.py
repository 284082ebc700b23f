"""The typed configuration. Only this package knows OmegaConf."""
