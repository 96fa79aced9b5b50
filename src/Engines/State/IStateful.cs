namespace Bunraku.Engines;

/// <summary>
/// Something that lives in a virtual machine and has state that must survive a save and a restore: a device, a vCPU, the clock, the paravirtual pages.
/// Implement <see cref="IStateful{TState}"/>; this one is for who handles all of them alike.
/// </summary>
public interface IStateful
{
    /// <summary>
    /// Names it in its machine: unique there, and the same in each machine of the same shape, as "cpu0", "com1", "ioapic". Parts come behind a dot:
    /// "cpu0.apic".
    /// </summary>
    string Id { get; }

    /// <summary>The type of its record.</summary>
    Type StateType { get; }

    /// <summary>Copies the state out into a new record, of which nothing changes afterwards. The machine is paused; no side effects.</summary>
    /// <exception cref="CannotSaveException">Its state has parts that cannot be known.</exception>
    object Save();

    /// <summary>
    /// Takes over a record that <see cref="Save"/> made in a machine of the same shape. The machine is paused. It moves no wire, sends no message and wakes
    /// nobody: those at the other end restore their own state. Timers are armed again for the deadlines in the record; the clock was restored before.
    /// </summary>
    /// <exception cref="StateFormatException">The record does not fit.</exception>
    void Restore(object state);
}

/// <summary><see cref="IStateful"/> with its record's type.</summary>
/// <typeparam name="TState">
/// A class that carries <see cref="StateRecordAttribute"/> and consists of numbers, booleans, strings, enumerations, arrays, lists, dictionaries by number,
/// nullables and further records. All that it holds is part of the format: a change of it raises the version.
/// </typeparam>
public interface IStateful<TState> : IStateful where TState : class
{
    /// <inheritdoc cref="IStateful.Save"/>
    new TState Save();

    /// <inheritdoc cref="IStateful.Restore"/>
    void Restore(TState state);

    Type IStateful.StateType => typeof(TState);

    object IStateful.Save() => Save();

    void IStateful.Restore(object state) => Restore(StateCheck.Record<TState>(state, Id));
}
