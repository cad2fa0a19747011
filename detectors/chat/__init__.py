"""Chat models: on this machine through transformers, or behind any OpenAI-compatible endpoint."""

from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings

__all__ = ["EndpointChat", "EndpointSettings"]
