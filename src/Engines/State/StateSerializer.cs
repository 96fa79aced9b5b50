using System.Reflection;
using System.Text.Json;

namespace Bunraku.Engines;

/// <summary>
/// The one way in which state records become bytes and come back. A record's format is all of its members: on reading, a missing one, an unknown one, a null
/// where none may be or a value out of range is an error; nothing is filled in silently. Thread-safe.
/// </summary>
public static class StateSerializer
{
    /// <summary>Saves a part.</summary>
    /// <exception cref="CannotSaveException">The part says that it cannot.</exception>
    public static SavedState Save(IStateful part) => Write(part, part.Save());

    /// <summary>Writes what <see cref="IStateful.Save"/> of a part returned.</summary>
    public static SavedState Write(IStateful part, object state)
    {
        StateRecordAttribute format = FormatOf(part.StateType);
        return new SavedState(part.Id, format.Name, format.Version, RecordWriter.Write(state, part.StateType));
    }

    /// <summary>Restores a part.</summary>
    /// <exception cref="StateFormatException">The state is of something else, of a version that this program does not know, damaged, or does not fit the
    /// part.</exception>
    public static void Restore(IStateful part, SavedState saved) => part.Restore(Read(part, saved));

    /// <summary>Reads a part's record, for <see cref="IStateful.Restore"/>. The part is only asked what it is.</summary>
    /// <exception cref="StateFormatException">The state is of something else, of a version that this program does not know, or damaged.</exception>
    public static object Read(IStateful part, SavedState saved)
    {
        if (saved.Id != part.Id) throw new StateFormatException($"the state of {saved.Id} is not that of {part.Id}");
        StateRecordAttribute format = FormatOf(part.StateType);
        if (saved.Format != format.Name)
            throw new StateFormatException($"{saved.Id}: this is the state of a {saved.Format}, the machine has a {format.Name} there");
        if (saved.Version != format.Version)
        {
            string writer = saved.Version > format.Version ? "a newer" : "an older";
            throw new StateFormatException($"{saved.Id}: version {saved.Version} of the format {format.Name} was written by {writer} program; "
                + $"this one knows version {format.Version}");
        }
        try
        {
            return RecordReader.Read(saved.Data.Span, part.StateType);
        }
        catch (JsonException e)
        {
            throw new StateFormatException($"{saved.Id}: its state is damaged: {e.Message}", e);
        }
    }

    /// <summary>Name and version of a record type's format.</summary>
    /// <exception cref="InvalidOperationException">The type is no state record.</exception>
    public static StateRecordAttribute FormatOf(Type type) =>
        type.GetCustomAttribute<StateRecordAttribute>()
            ?? throw new InvalidOperationException($"{type.Name} is no state record: it has no {nameof(StateRecordAttribute)}");
}
