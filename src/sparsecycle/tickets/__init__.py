"""Tickets: subnetworks that are found by training more than once, and what can be done with them."""

from sparsecycle.tickets.applied import Applied
from sparsecycle.tickets.colt import colt
from sparsecycle.tickets.given import Given
from sparsecycle.tickets.lottery import lottery_ticket
from sparsecycle.tickets.rounds import Round, Search
from sparsecycle.tickets.ticket import Overlap, Ticket

__all__ = ["Applied", "Given", "Overlap", "Round", "Search", "Ticket", "colt", "lottery_ticket"]
