"""Host and port as one text, "127.0.0.1:6432" or "[::1]:6432"."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


class Address(NamedTuple):
    """Where to listen. host: an IP address, or "localhost"; port 0 lets the system choose (tests)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Split "host:port". Raises ValueError with one sentence."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be HOST:PORT, for example 127.0.0.1:6432 or [::1]:6432")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if host != "localhost":
            try:
                host = str(ipaddress.ip_address(host))
            except ValueError as error:
                raise ValueError(
                    "the host must be an IP address to listen on (0.0.0.0 for all), or localhost"
                ) from error
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def is_any(self) -> bool:
        return self.host != "localhost" and ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "examples": ["127.0.0.1:6432", "[::1]:6432"]}
