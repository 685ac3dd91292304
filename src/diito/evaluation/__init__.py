"""The commands diito evaluate and diito align."""
