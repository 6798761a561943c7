"""Serving: the engine that batches the steps of different requests, and the HTTP API and page that use it."""
