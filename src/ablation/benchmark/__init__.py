"""How fast the project trains, compared with the usual script."""
