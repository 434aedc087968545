"""How long property tests search: `make test` a little, `make soak` long."""

from hypothesis import settings

settings.register_profile("test", max_examples=100, deadline=None)
settings.register_profile("soak", max_examples=3000, deadline=None)
settings.load_profile("test")
