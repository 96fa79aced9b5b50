using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// The address line 20 mask of the PC: the line passes when the keyboard controller's output port or port 92h lets it pass, as in the PIIX family
/// (data sheet, "A20M#"). After power-on the keyboard controller lets it pass. With its lock held.
/// </summary>
/// <param name="changed">
/// Told when the line's state changes: true means that address bit 20 reaches memory. Called on a vCPU thread, outside of any instruction.
/// </param>
internal sealed class A20Gate(Action<bool> changed) : IDevice, IStateful<A20State>
{
    private bool _keyboardController = true, _port92;

    /// <summary>Address bit 20 reaches memory.</summary>
    public bool Enabled => _keyboardController || _port92;

    /// <inheritdoc/>
    public string Id => "a20";

    /// <inheritdoc/>
    public void Reset() => Change(keyboardController: true, port92: false);

    A20State IStateful<A20State>.Save() => new(_keyboardController, _port92);

    void IStateful<A20State>.Restore(A20State state)
    {
        (_keyboardController, _port92) = (state.KeyboardController, state.Port92);
        changed(Enabled); // the processors' end of the wire is no state of theirs
    }

    internal void SetKeyboardController(bool pass) => Change(pass, _port92);

    internal void SetPort92(bool pass) => Change(_keyboardController, pass);

    private void Change(bool keyboardController, bool port92)
    {
        bool before = Enabled;
        (_keyboardController, _port92) = (keyboardController, port92);
        if (Enabled != before) changed(Enabled);
    }
}

/// <summary>State of an <see cref="A20Gate"/>: who lets the line pass.</summary>
[StateRecord("a20", version: 1)]
internal sealed record A20State(bool KeyboardController, bool Port92);
