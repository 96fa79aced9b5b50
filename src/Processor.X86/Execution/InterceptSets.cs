namespace Bunraku.Processor.X86;

/// <summary>
/// Numbers for sets of intercepted instructions. Which instructions exit is decided when they are decoded, so the number is part of <see cref="ModeKey"/>: code
/// that was decoded under another set stays, and is found again when that set is in force again.
/// </summary>
internal sealed class InterceptSets
{
    /// <summary>Numbers are 0 to this.</summary>
    public const uint Last = (1 << ModeKey.InterceptBits) - 1;

    private readonly List<(InterceptedInstructions, GuestIntercepts)> _sets = [];

    /// <summary>The set's number in the mode key; null when there is none left: all code has to go, and <see cref="Clear"/> to be called.</summary>
    /// <param name="set">What the hypervisor outside intercepts.</param>
    /// <param name="inner">What a hypervisor inside the guest is asked about; none unless its guest runs.</param>
    public uint? Find(InterceptedInstructions set, GuestIntercepts inner)
    {
        int number = _sets.IndexOf((set, inner));
        if (number >= 0) return (uint)number;
        if (_sets.Count > Last) return null;
        _sets.Add((set, inner));
        return (uint)_sets.Count - 1;
    }

    /// <summary>No code is left that was decoded under any set.</summary>
    public void Clear() => _sets.Clear();
}
