namespace Bunraku.Engines;

/// <summary>
/// The state of one part of a machine, as <see cref="StateSerializer"/> writes it. Immutable: nothing of the machine it came from can still change it.
/// </summary>
/// <param name="Id"><see cref="IStateful.Id"/> of the part.</param>
/// <param name="Format">Name of the record's format, <see cref="StateRecordAttribute.Name"/>.</param>
/// <param name="Version">Version of the format.</param>
/// <param name="Data">The record: JSON in UTF-8.</param>
public sealed record SavedState(string Id, string Format, int Version, ReadOnlyMemory<byte> Data)
{
    /// <summary>True when both are the state of the same part and equal in each bit.</summary>
    public bool SameAs(SavedState other) => (Id, Format, Version) == (other.Id, other.Format, other.Version) && Data.Span.SequenceEqual(other.Data.Span);

    /// <inheritdoc/>
    public override string ToString() => $"{Id} ({Format}, version {Version}): {System.Text.Encoding.UTF8.GetString(Data.Span)}";
}
