using Bunraku.Engines;

namespace Bunraku.Machine;

/// <summary>The record of a device that remembers nothing.</summary>
[StateRecord("none", version: 1)]
internal sealed record NoState;
