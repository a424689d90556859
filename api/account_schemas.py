"""What accounts look like in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from account_rules import (
    LONGEST_EMAIL,
    LONGEST_NAME,
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    Role,
    check_name,
    check_password,
    check_time_zone,
    normalise_email,
    normalise_phone,
)
from api.parsing import Schema
from api.schemas import SAFE_TEXT, IdentifierText, PageOf, Text, Timestamp

Email = Annotated[
    Text,
    AfterValidator(normalise_email),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": LONGEST_EMAIL}),
]
PersonName = Annotated[
    Text,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}),
]
Phone = Annotated[
    Text,
    AfterValidator(normalise_phone),
    WithJsonSchema({"type": "string", "description": "E.164", "example": "+33612345678"}),
]
TimeZone = Annotated[
    Text,
    AfterValidator(check_time_zone),
    WithJsonSchema({"type": "string", "description": "IANA name", "example": "Europe/Paris"}),
]
Password = Annotated[
    Text,
    AfterValidator(check_password),
    WithJsonSchema(
        {
            "type": "string",
            "format": "password",
            "minLength": SHORTEST_PASSWORD,
            "maxLength": LONGEST_PASSWORD,
            "writeOnly": True,
        }
    ),
]


class LoginRequest(Schema):
    """Who wants in."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"email": "ana@example.com", "password": "correct horse battery"}]}
    )

    # No rule beyond the length: an e-mail that cannot exist is a wrong one like any other.
    email: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_EMAIL), SAFE_TEXT]
    password: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PASSWORD), SAFE_TEXT]


class NewUser(Schema):
    """A user to add."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "email": "ben@example.com",
                    "name": "Ben Ito",
                    "role": "operator",
                    "password": "a long enough password",
                    "phone": "+33612345678",
                    "time_zone": "Europe/Paris",
                }
            ]
        }
    )

    email: Email
    name: PersonName
    role: Role
    password: Password
    phone: Phone | None = None
    time_zone: TimeZone = "UTC"


# Left out means unchanged, which null must not mean: hence defaults that are never read instead of None.
class OwnChanges(Schema):
    """What people may change of themselves; fields left out stay, a null phone takes it away."""

    model_config = {"json_schema_extra": {"examples": [{"phone": "+33612345678", "time_zone": "Europe/Paris"}]}}

    email: Email = Field(default_factory=str)
    password: Password = Field(default_factory=str)
    phone: Phone | None = None
    time_zone: TimeZone = Field(default_factory=str)

    def to_changes(self) -> dict[str, str | None]:
        """Return the fields that were sent."""
        return self.model_dump(exclude_unset=True)


class UserChanges(OwnChanges):
    """What an administrator may change of a user; fields left out stay, a null phone takes it away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "engineer", "phone": None}]})

    name: PersonName = Field(default_factory=str)
    role: Role = Field(default_factory=lambda: "viewer")


class ShownUser(Schema):
    """A user."""

    user_id: IdentifierText
    email: str
    name: str
    role: Role
    phone: str | None
    opted_out_of_sms_at: Timestamp | None = Field(
        description="since when the phone's owner refuses SMS, who is unreachable by SMS then; null: they do not"
    )
    time_zone: str
    created_at: Timestamp
    updated_at: Timestamp


class UserPage(PageOf):
    """A page of users, newest first."""

    data: list[ShownUser]


class LoginAnswer(Schema):
    """A token, and whose it is."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="seconds")
    user: ShownUser


class CurrentCaller(Schema):
    """Who a token speaks for; the fields of the account are null where the token belongs to none."""

    subject: str
    user_id: IdentifierText | None
    email: str | None
    name: str
    role: str = Field(description="the role that counts for this token")
    permissions: list[str]
    phone: str | None
    opted_out_of_sms_at: Timestamp | None
    time_zone: str | None
    created_at: Timestamp | None
    updated_at: Timestamp | None
