using Bunraku.Machine.Acpi;
using Bunraku.Platform;

namespace Bunraku.Sessions;

// What can be done to the machine's devices while it runs.
public sealed partial class Vm
{
    private readonly Action<string>? _progress;
    private int _lacksRoom; // 1 while the machine is stopped, or about to be, since the host has no room for what it writes

    /// <summary>
    /// The terminal that the guest has, has another size: programs there are told, as by a window. A guest of ours with a terminal and Linux's driver for
    /// virtio's console; else nothing happens. Any thread.
    /// </summary>
    /// <param name="columns">1 to 65535.</param>
    /// <param name="rows">1 to 65535.</param>
    public void ResizeTerminal(int columns, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(columns, ushort.MaxValue);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, ushort.MaxValue);
        _machine.ResizeTerminal(columns, rows);
    }

    /// <summary>Plugs the cable of a network card in or out: what came out on its way is lost.</summary>
    /// <param name="card">Its number, from 0.</param>
    /// <param name="up">In.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such card.</exception>
    public void SetLink(int card, bool up)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(card);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(card, _networks.Cards.Count);
        _networks.Cards[card].SetLink(up);
    }

    /// <summary>
    /// Gives the guest a new generation ID and tells it, so that it draws no random numbers that a copy of it draws too: see <see cref="VmGeneration"/>.
    /// </summary>
    /// <param name="id">Null: a random one.</param>
    public void RenewGeneration(Guid? id = null) => _machine.Generation.Renew(id);

    /// <summary>Presses the power button: an operating system that listens to it shuts down.</summary>
    public void PressPowerButton() => _machine.PressPowerButton();

    /// <summary>Sends the guest an NMI, as the button of a server does.</summary>
    public void PulseNmi() => _machine.PulseNmi();

    /// <summary>Sends a break on the guest's first serial port: Linux takes it for the SysRq key.</summary>
    public void SendBreak() => _machine.SendBreak();

    /// <summary>How many network cards the machine has.</summary>
    public int Cards => _networks.Cards.Count;

    /// <summary>How many disks the machine has.</summary>
    public int DiskCount => _options.Disks.Count;

    /// <summary>What is known of the disks, and of the discs behind them.</summary>
    public IReadOnlyList<DiskState> LookAtDisks() => _disks.States;

    /// <summary>Makes a virtio disk larger, raw or qcow2, and tells the guest.</summary>
    /// <param name="disk">Its number, from 0.</param>
    /// <param name="size">Bytes, a multiple of 512, at least what it has.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such disk.</exception>
    /// <exception cref="CannotWriteException">The host cannot, or it is a disk that keeps its size.</exception>
    public void GrowDisk(int disk, ulong size)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(disk);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(disk, _options.Disks.Count);
        try
        {
            WhileStill(() =>
            {
                _disks.Grow(disk, size);
                return 0;
            });
            _description = _description is { } d ? d with { DiskShapes = _disks.Shapes } : null;
        }
        catch (IOException e)
        {
            throw new CannotWriteException($"the size of disk {_options.Disks[disk].Image.Path}", HostError.Reason(e), e);
        }
    }

    /// <summary>The machine is stopped since the host has no room for what it writes to a disk: see <see cref="VmDisk.StopsWhenFull"/>.</summary>
    public bool LacksRoom => _lacksRoom != 0 && _paused;

    /// <summary>On a disk's thread. True: somebody has let the machine go on.</summary>
    private bool AwaitRoom(string path)
    {
        if (Interlocked.Exchange(ref _lacksRoom, 1) == 0)
        {
            _progress?.Invoke($"disk {path}: the host has no room for what the guest writes, and the machine is stopped; make room and let it go on "
                + "('cont' in the monitor)");
            // Not here: this is a thread that the pause waits for.
            ThreadPool.UnsafeQueueUserWorkItem(static vm => vm.Pause(), this, false);
        }
        return _vm.AwaitResume();
    }
}
