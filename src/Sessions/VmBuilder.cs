using Bunraku.Machine.Board;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Sessions;

/// <summary>
/// Makes a <see cref="Vm"/>: what it is (<see cref="VmOptions"/>), and whom it is connected with. Every property has a default, and one builder can make
/// several VMs if its streams, parts and observers can serve several.
/// </summary>
/// <example>
/// <code>
/// await using Vm vm = new VmBuilder(KnownEngines.All) { Command = ["uname", "-a"], Output = Console.OpenStandardOutput() }.Build();
/// VmResult result = await vm.RunAsync();
/// </code>
/// </example>
public sealed record VmBuilder : VmOptions
{
    /// <summary>A builder with all defaults.</summary>
    /// <param name="engines">
    /// What <see cref="VmOptions.Engine"/> can name, the best first: an engine of your own, or KnownEngines of the package Bunraku.
    /// </param>
    public VmBuilder(IReadOnlyList<IX86Engine> engines) => Engines = engines;

    /// <summary>A builder with options that come from elsewhere.</summary>
    /// <param name="engines">As in the other constructor.</param>
    /// <param name="options">Are copied.</param>
    public VmBuilder(IReadOnlyList<IX86Engine> engines, VmOptions options) : base(options) => Engines = engines;

    /// <summary>The engines to choose from, the best first.</summary>
    public IReadOnlyList<IX86Engine> Engines { get; init; }

    /// <summary>
    /// What the guest reads: the standard input of the command, or what is typed on its console. Null: nothing. Its end is the end of the command's input, or
    /// Ctrl-D on the console. A thread of the VM reads it, and is not the one that closes it.
    /// </summary>
    public Stream? Input { get; init; }

    /// <summary>
    /// Takes what the guest prints: the output of the command, or its console. Null: it is dropped. A thread of the VM writes and flushes it, and does not
    /// close it.
    /// </summary>
    public Stream? Output { get; init; }

    /// <summary>
    /// Takes what the command writes to its standard error. Null: that comes with the <see cref="Output"/>, in the order in which it was written. Used like
    /// that.
    /// </summary>
    public Stream? Errors { get; init; }

    /// <summary>In place of <see cref="Input"/> and <see cref="Output"/>: a console of the caller's own, who gives input by <see cref="Vm.Send"/>.</summary>
    public IGuestConsole? Console { get; init; }

    /// <summary>
    /// Path of a snapshot (<see cref="Vm.SaveAsync"/>) that the VM goes on from. What the guest can tell comes from there, in place of the options: memory,
    /// processors, devices, guest, command. Null: the guest is booted.
    /// </summary>
    public string? RestoreFrom { get; init; }

    /// <summary>How a restored VM comes to its memory.</summary>
    public MemoryBacking MemoryBacking { get; init; }

    /// <summary>Devices and other parts that are attached to the board behind those that every PC has, in this order.</summary>
    public IList<IBoardPart> Parts { get; init; } = [];

    /// <summary>Takes what the firmware writes to its log, on a vCPU's thread, and does not wait. Null: it keeps none.</summary>
    public Action<ReadOnlySpan<byte>>? FirmwareLog { get; init; }

    /// <summary>Who sees what happens to the VM.</summary>
    public IList<IVmObserver> Observers { get; init; } = [];

    /// <summary>Called for each exit, like <see cref="IVmObserver.OnExit"/>; null: nobody is.</summary>
    public Action<ExitRecord>? OnExit { get; init; }

    /// <summary>Who is told where the engine puts host code that it makes: a <see cref="PerfMap"/>, for example. Outlives the VM. Null: nobody is.</summary>
    public IHostCodeObserver? HostCode { get; init; }

    /// <summary>Who is told of entries into guests of a hypervisor inside the guest, and of exits from them. Outlives the VM. Null: nobody is.</summary>
    public INestedObserver? Nesting { get; init; }

    /// <summary>The commands of the VM's monitor; more can be added. Each VM that is made has a copy.</summary>
    public MonitorCommands Commands { get; init; } = new(StandardCommands.All);

    /// <summary>
    /// Told in a few words what takes long before the start, and what the guest does not get of what it asks for. On the caller's thread. Null: nobody is.
    /// </summary>
    public Action<string>? Progress { get; init; }

    /// <summary>
    /// Told that the guest was kept (<see cref="VmOptions.KeepBooted"/>), in a few words, or why it could not be. On a thread of the pool. Null: nobody is.
    /// </summary>
    public Action<string>? Kept { get; init; }

    /// <summary>
    /// Where the VM is saved (<see cref="Vm.SaveAsync"/>) before it ends because somebody outside wants it: a time limit, a signal, the monitor's quit. Null:
    /// it is not.
    /// </summary>
    public string? SaveTo { get; init; }

    /// <summary>The result has <see cref="VmResult.Statistics"/>. They take some milliseconds at the end, which a command of moments notices.</summary>
    public bool Measures { get; init; } = true;
    /// <summary>What is saved there has its memory packed by zstd.</summary>
    public bool CompressSaves { get; init; }

    /// <summary>The machine whose state this one is to take over: nothing is loaded, and disks are opened later. Null: a guest is booted.</summary>
    internal MachineDescription? Incoming { get; init; }

    /// <summary>How messages name options.</summary>
    public VmWords Words { get; init; } = new();

    /// <summary>
    /// Gets all that the guest by name can need, whatever devices it is to have, so that later machines can be made without a network. Downloads, and may take
    /// minutes.
    /// </summary>
    /// <param name="cancel">Ends a download.</param>
    /// <exception cref="VmOptionException">There is no such guest.</exception>
    /// <exception cref="CannotStartException">It cannot be had.</exception>
    public void FetchGuest(CancellationToken cancel = default)
    {
        if (!GuestImage.Names.Contains(Guest)) throw new VmOptionException(nameof(Guest), Nearest.Message("guest", Guest, GuestImage.Names));
        if (Guest == Machine.HelloGuest.Name) return; // it is part of the program
        if (DebianGuest.Is(this))
        {
            DebianGuest.Expand(this, cancel);
            return;
        }
        try
        {
            GuestFiles.FindAll(this, Words, Progress, cancel);
        }
        catch (Machine.BootException e)
        {
            throw new CannotStartException(e.Message, e);
        }
    }

    /// <summary>
    /// Makes the machine and loads the guest; nothing runs yet. The files of a guest by name may have to be downloaded, which can take a minute.
    /// </summary>
    /// <param name="cancel">Ends a download.</param>
    /// <exception cref="VmOptionException">An option is wrong.</exception>
    /// <exception cref="CannotStartException">This host, a file or a package does not allow it.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Vm Build(CancellationToken cancel = default)
    {
        VmBuilder builder = DebianGuest.Expand(this, cancel);
        try
        {
            return new Vm(builder, cancel);
        }
        catch (KeptGuestException e)
        {
            Progress?.Invoke($"the kept guest {e.Path} is of no use and is booted anew: {e.Message}");
            try
            {
                File.Delete(e.Path);
            }
            catch (Exception denied) when (denied is IOException or UnauthorizedAccessException)
            {
                return new Vm(builder with { KeepBooted = false }, cancel);
            }
            return new Vm(builder, cancel);
        }
    }

    /// <summary>The same on a thread of the pool.</summary>
    /// <inheritdoc cref="Build"/>
    public Task<Vm> BuildAsync(CancellationToken cancel = default) => Task.Run(() => Build(cancel), cancel);
}
