namespace Bunraku.Machine;

/// <summary>
/// The address line 20 mask of the PC: the line passes when the keyboard controller's output port or port 92h lets it pass, as in the PIIX family
/// (data sheet, "A20M#"). After power-on the keyboard controller lets it pass. With its lock held.
/// </summary>
/// <param name="changed">Told when the line's state changes: true means that address bit 20 reaches memory. Called on a vCPU thread, outside of any instruction.</param>
public sealed class A20Gate(Action<bool> changed)
{
    private bool _keyboardController = true, _port92;

    /// <summary>Address bit 20 reaches memory.</summary>
    public bool Enabled => _keyboardController || _port92;

    internal void SetKeyboardController(bool pass) => Change(pass, _port92);

    internal void SetPort92(bool pass) => Change(_keyboardController, pass);

    private void Change(bool keyboardController, bool port92)
    {
        bool before = Enabled;
        (_keyboardController, _port92) = (keyboardController, port92);
        if (Enabled != before) changed(Enabled);
    }
}
