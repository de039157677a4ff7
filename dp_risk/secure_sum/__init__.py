"""The secure sum: the server learns the sum of what all sites send, and nothing of any one.

Who is trusted with what. The server is curious and may drop, delay, replay or forge messages; at
most `max_colluding` sites of a round tell it all they know. What they learn together is the sum
over the other sites, with the noise that was accounted for. That the sum is right is not promised:
a site may send anything.

Once a run (`enrolment`): each site makes an X25519 pair and signs it together with the run, the
roster and the plan, with the Ed25519 key that the other sites' rosters hold. The server relays
these statements. A site goes on only if every one is by a site of its own roster, for its own run,
roster and plan, and there are `min_sites` of them. Each pair of sites then shares a secret that the
server cannot compute (`masks`).

Each round (`session`): the server names a number r and the participants U. A site charges its
ledger, computes its sum, adds its share of the noise (`dp_risk.privacy.shares`), adds a mask for
every later site of U and subtracts one for every earlier site, modulo 2**64, and sends the result.
In the sum over U all masks cancel. In any smaller sum at least one stays, and hides everything.

A round number is used once. A site that answered gives the same bytes to the same request; all else
gets one constant refusal. If a site of U is lost, the round is lost with it, nothing can be
unmasked, the charge stays, and the server starts the next number with another U. No key is ever
revealed, so a server that lies about who is there only wastes rounds. The masks depend on the whole
request, so a server that asks two sites different things (other weights, other bins) does, too.

The pattern of pairwise masks is that of Bonawitz et al. 2017, "Practical secure aggregation for
privacy-preserving machine learning", section 4.0.1, without its recovery of lost sites.
"""
