"""What the bus counts since its start, as `sovl stats` shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class SubscriberCounters(BaseModel):
    """What one subscriber was sent."""

    name: str = Field(description="what it calls itself")
    delivered: int = Field(description="events that it was sent")
    dropped: int = Field(description="events that it missed, as it did not read")


class CutSubscriber(SubscriberCounters):
    """One that did not read any more, and was cut off."""

    reason: str = Field(description="why")


class BrokerCounters(BaseModel):
    """Events, topics and subscribers."""

    published: int = Field(description="events that were published")
    refused: int = Field(description="messages that are no events, or of too many topics")
    dropped: int = Field(description="events that a subscriber missed")
    topics: int = Field(description="topics that there are")
    subscribers: list[SubscriberCounters] = Field(description="who follows events now")
    cut_off: list[CutSubscriber] = Field(description="the last that were cut off")
