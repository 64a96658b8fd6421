"""The Python client: Client and AsyncClient, results as numpy, Arrow and pandas."""
