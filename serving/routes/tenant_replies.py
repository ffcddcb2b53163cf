"""What replies about tenants and API keys look like, for the API's description."""

from pydantic import BaseModel, Field

__all__ = [
    "Deleted",
    "Keys",
    "MadeKey",
    "MadeTenant",
    "Quotas",
    "Revoked",
    "Tenant",
    "Tenants",
]


class Quotas(BaseModel):
    """What a tenant may use."""

    requests_per_s: int
    events_per_s: int
    storage_bytes: int
    training_minutes: int = Field(description="Within 24 hours; kept to by `headwater train`.")


class Tenant(BaseModel):
    """A tenant, what it may use, and what it has stored."""

    tenant: str
    created: str = Field(description="UTC.")
    keys: int = Field(description="API keys, expired ones too.")
    activities: int
    storage_bytes: int = Field(description="Bytes of its activities.")
    trained_minutes: float | None = Field(
        description="Minutes of training within 24 hours, as the registry knew a minute ago; null "
        "where the service does not know."
    )
    quotas: Quotas


class Tenants(BaseModel):
    """All tenants by name."""

    tenants: list[Tenant]


class Deleted(BaseModel):
    """A tenant that is no more."""

    tenant: str
    deleted: bool


class MadeTenant(BaseModel):
    """A new tenant and its first key: keep it, it is told once."""

    tenant: str
    key_id: str
    api_key: str


class KeyDescription(BaseModel):
    """An API key, without its secret."""

    key_id: str
    scopes: list[str]
    created: str | None = Field(description="UTC; null of a key from before this was noted.")
    expires: str | None = Field(description="UTC; null where it is good until it is revoked.")


class Keys(BaseModel):
    """The keys of the tenant, by id."""

    keys: list[KeyDescription]


class MadeKey(BaseModel):
    """A new key: keep it, it is told once."""

    key_id: str
    api_key: str


class Revoked(BaseModel):
    """A key that is no more."""

    key_id: str
    revoked: bool
