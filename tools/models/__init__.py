"""The makers of the models, one file for each kind; tools/make_models.py runs them."""
