namespace Bunraku.Engines;

/// <summary>Names the format of a state record. Name and version are written beside the state, and a reader refuses others.</summary>
/// <param name="name">What the state is of, as "uart16550a"; it outlives the name of the class.</param>
/// <param name="version">Counts from 1, and up with every change of the record.</param>
[AttributeUsage(AttributeTargets.Class)]
public sealed class StateRecordAttribute(string name, int version) : Attribute
{
    /// <summary>What the state is of.</summary>
    public string Name { get; } = name;

    /// <summary>The version of the format that this program writes and reads.</summary>
    public int Version { get; } = version;
}
