using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// A whole machine between two instructions, by value: it can be restored as often as one likes, in the machine that it came from or in others of the same
/// shape. Immutable.
/// </summary>
/// <param name="Parts">Clock, paravirtual interface, devices and vCPUs, in the order in which they are restored.</param>
/// <param name="Memory">The RAM.</param>
public sealed record MachineState(IReadOnlyList<SavedState> Parts, MemoryImage Memory)
{
    /// <summary>What differs between two states, one line for each part; empty when the machines are equal in each bit.</summary>
    public IReadOnlyList<string> Differences(MachineState other)
    {
        var lines = new List<string>();
        Dictionary<string, SavedState> theirs = other.Parts.ToDictionary(p => p.Id);
        foreach (SavedState part in Parts)
        {
            if (!theirs.Remove(part.Id, out SavedState? their)) lines.Add($"{part.Id}: only in the first");
            else if (!part.SameAs(their)) lines.Add($"{part}{Environment.NewLine}  against {their}");
        }
        lines.AddRange(theirs.Keys.Select(id => $"{id}: only in the second"));
        if (Memory.FirstDifference(other.Memory) is { } offset)
        {
            ulong start = offset & ~15ul;
            string ours = Convert.ToHexString(Memory.Read(start, 32)), others = Convert.ToHexString(other.Memory.Read(start, 32));
            lines.Add($"RAM from offset {offset:X} on: at {start:X} {ours} against {others}");
        }
        return lines;
    }
}

/// <summary>What a machine must have in common with the one that it takes the state of.</summary>
/// <param name="Architecture">The word for its architecture.</param>
/// <param name="Memory">Bytes of RAM.</param>
/// <param name="Cpus">Number of vCPUs.</param>
/// <param name="Features">What the processors have, sorted.</param>
[StateRecord("machine", version: 2)]
internal sealed record MachineShape(string Architecture, ulong Memory, int Cpus, string[] Features);
