using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using System.Numerics;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Storage;

namespace Bunraku.Sessions;

/// <summary>
/// All that a machine has to be made with, so that the state of another one fits it: what of <see cref="VmOptions"/> shows in the guest, and what became of
/// its defaults. It is written beside a state, as JSON, and read as input that nobody has checked. Immutable.
/// </summary>
internal sealed record MachineDescription
{
    /// <summary>The version that this program writes and reads. Also of where things are on the board: since 2 network cards have own slots.</summary>
    internal const int CurrentVersion = 2;

    private const int LongestText = 1 << 16, MostDevices = 64;

    private static readonly JsonSerializerOptions s_options = new(JsonSerializerDefaults.Strict)
    {
        MaxDepth = 16,
        Converters =
        {
            Names<BoardKind>(), Names<BootDevice>(), Names<DiskBus>(), Names<FileCache>(), Names<FileOwners>(), Names<GuestConsole>(), Names<ImageFormat>(),
            Names<NestedVirtualization>(), Names<NetworkModel>(), Names<ShareKind>(),
            new AddressConverter(), new EndPointConverter(), new CardAddressConverter(),
        },
        TypeInfoResolver = MachineDescriptionJson.Default.WithAddedModifier(RequireParts),
    };

    /// <summary>Of this format.</summary>
    public required int Version { get; init; }

    /// <summary>Name of the engine that ran it; another one may go on.</summary>
    public required string Engine { get; init; }

    /// <summary>Bytes of RAM.</summary>
    public required ulong Memory { get; init; }

    /// <summary>Number of vCPUs.</summary>
    public required int Cpus { get; init; }

    /// <summary>As for <see cref="CpuModels.Parse(string)"/>, with the model's name.</summary>
    public required string Cpu { get; init; }

    /// <inheritdoc cref="VmOptions.Nested"/>
    public required NestedVirtualization? Nested { get; init; }

    /// <inheritdoc cref="VmOptions.Paravirtual"/>
    public required bool Paravirtual { get; init; }

    /// <summary>Hz of the guest's TSC, which is never 0.</summary>
    public required ulong TscFrequency { get; init; }

    /// <summary>The engine held the local APICs: their state is not that of the board's.</summary>
    public required bool EngineApics { get; init; }

    /// <inheritdoc cref="VmOptions.DebugExit"/>
    public required bool DebugExit { get; init; }

    /// <inheritdoc cref="VmOptions.TestDevice"/>
    public required bool TestDevice { get; init; }

    /// <inheritdoc cref="VmOptions.Board"/>
    public BoardKind Board { get; init; }

    /// <summary>It has a display.</summary>
    public bool HasDisplay { get; init; }

    /// <summary>It has a tablet.</summary>
    public bool HasTablet { get; init; }

    /// <inheritdoc cref="VmOptions.CompactDiscs"/>
    public required IReadOnlyList<string> CompactDiscs { get; init; }

    /// <inheritdoc cref="VmOptions.Disks"/>
    public required IReadOnlyList<VmDisk> Disks { get; init; }

    /// <summary>Of the disks, and of the discs behind them.</summary>
    public required IReadOnlyList<DiskShape> DiskShapes { get; init; }

    /// <inheritdoc cref="VmOptions.Rng"/>
    public required bool Rng { get; init; }

    /// <inheritdoc cref="VmOptions.Seed"/>
    public ulong? Seed { get; init; }

    /// <inheritdoc cref="VmOptions.KernelVersion"/>
    public string? KernelVersion { get; init; }

    /// <inheritdoc cref="VmOptions.Init"/>
    public string? Init { get; init; }

    /// <inheritdoc cref="VmOptions.Networks"/>
    public required IReadOnlyList<VmNetwork> Networks { get; init; }

    /// <inheritdoc cref="VmOptions.Shares"/>
    public IReadOnlyList<VmShare> Shares { get; init; } = [];

    /// <inheritdoc cref="VmOptions.Vsock"/>
    public VmVsock? Vsock { get; init; }

    /// <inheritdoc cref="VmOptions.Balloon"/>
    public VmBalloon? Balloon { get; init; }

    /// <inheritdoc cref="VmOptions.BootDevices"/>
    public IReadOnlyList<BootDevice> BootDevices { get; init; } = [];

    /// <inheritdoc cref="VmOptions.Identity"/>
    public MachineIdentity Identity { get; init; } = new();

    /// <inheritdoc cref="VmOptions.NoReboot"/>
    public required bool NoReboot { get; init; }

    /// <summary>What is booted after a reset, as in <see cref="VmOptions"/>.</summary>
    public required string Guest { get; init; }

    /// <inheritdoc cref="VmOptions.Bios"/>
    public required string? Bios { get; init; }

    /// <summary>Bytes of the firmware's ROM; 0: there is none.</summary>
    public required int RomSize { get; init; }

    /// <summary>How many of them are a flash memory.</summary>
    public int FlashSize { get; init; }

    /// <inheritdoc cref="VmOptions.Kernel"/>
    public required string? Kernel { get; init; }

    /// <inheritdoc cref="VmOptions.Initrd"/>
    public required string? Initrd { get; init; }

    /// <inheritdoc cref="VmOptions.Modules"/>
    public required IReadOnlyList<string> Modules { get; init; }

    /// <inheritdoc cref="VmOptions.Append"/>
    public required string? Append { get; init; }

    /// <summary>The kernel's whole command line.</summary>
    public required string CommandLine { get; init; }

    /// <inheritdoc cref="VmOptions.Command"/>
    public required IReadOnlyList<string>? Command { get; init; }

    /// <inheritdoc cref="VmOptions.Environment"/>
    public IReadOnlyList<KeyValuePair<string, string>> Environment { get; init; } = [];

    /// <inheritdoc cref="VmOptions.WorkingFolder"/>
    public string? WorkingFolder { get; init; }

    /// <inheritdoc cref="VmOptions.User"/>
    public string? User { get; init; }

    /// <summary>How the guest's console is wired, when our init runs in it.</summary>
    public required GuestConsole? Console { get; init; }

    /// <summary>It was booted up to where it takes its command, and has what that takes: <see cref="LinuxGuest.Waits"/>.</summary>
    public required bool TakesCommandLate { get; init; }

    /// <summary>A program in it takes the terminal's sizes: <see cref="LinuxGuest.FollowsSize"/>.</summary>
    public bool FollowsSize { get; init; } // not required: snapshots from before it have none

    /// <summary>It gets modules of its kernel when it wants one: <see cref="LinuxGuest.LoadsModules"/>.</summary>
    public bool LoadsModules { get; init; }

    /// <summary>By which our init's messages are known: <see cref="LinuxGuest.Token"/>.</summary>
    public required string? Token { get; init; }

    /// <summary>Describes a machine that was made.</summary>
    /// <param name="options">As it was asked for.</param>
    /// <param name="image">What was booted.</param>
    /// <param name="machine">What came of it.</param>
    /// <param name="engine">Name of its engine.</param>
    /// <param name="disks">Its disks.</param>
    public static MachineDescription Of(VmOptions options, GuestImage image, X86Machine machine, string engine, IReadOnlyList<DiskShape> disks) => new()
    {
        Version = CurrentVersion,
        Engine = engine,
        Memory = options.Memory,
        Cpus = options.Cpus,
        Cpu = options.Cpu ?? CpuModels.Default,
        Nested = options.Nested,
        Paravirtual = options.Paravirtual,
        TscFrequency = machine.Clock.CounterFrequency,
        EngineApics = machine.EngineApics is not null,
        DebugExit = options.DebugExit,
        TestDevice = options.TestDevice,
        Board = options.Board,
        HasDisplay = options.HasDisplay,
        HasTablet = options.HasTablet,
        CompactDiscs = [.. options.CompactDiscs.Select(Path.GetFullPath)],
        Disks = [.. options.Disks.Select(d => d with { Image = d.Image with { Path = Path.GetFullPath(d.Image.Path) } })],
        DiskShapes = disks,
        Rng = options.Rng,
        Seed = options.Seed,
        KernelVersion = options.KernelVersion,
        Init = options.Init is { } init ? Path.GetFullPath(init) : null,
        Networks = options.Networks,
        Shares = [.. options.Shares.Select(s => s with { Folder = Path.GetFullPath(s.Folder) })],
        Vsock = WithoutPath(options.Vsock),
        Balloon = options.Balloon,
        BootDevices = options.BootDevices,
        Identity = options.Identity,
        NoReboot = options.NoReboot,
        Guest = options.Guest,
        Bios = options.Bios is { } bios && !FirmwareImage.Names.Contains(bios) ? Path.GetFullPath(bios) : options.Bios,
        RomSize = image.Firmware?.Bytes.Length ?? 0,
        FlashSize = image.Firmware?.FlashLength ?? 0,
        Kernel = options.Kernel is { } kernel ? Path.GetFullPath(kernel) : null,
        Initrd = options.Initrd,
        Modules = options.Modules,
        Append = options.Append,
        CommandLine = image.Append,
        Command = options.Command,
        Environment = options.Environment,
        WorkingFolder = options.WorkingFolder,
        User = options.User,
        Console = image.Linux?.Console,
        TakesCommandLate = image.Linux is { Waits: true },
        FollowsSize = image.Linux is { FollowsSize: true },
        LoadsModules = image.Linux is { LoadsModules: true },
        Token = image.Linux?.Token,
    };

    /// <summary>Where it is, is the user's to say: a description from anywhere opens no socket, and replaces none.</summary>
    private static VmVsock? WithoutPath(VmVsock? vsock) => vsock is null ? null : vsock with { Path = null };

    /// <summary>A builder's properties become those of the machine; what a program has beside, streams and observers, stays.</summary>
    /// <param name="builder">Its engine is used where it names one.</param>
    public VmBuilder ApplyTo(VmBuilder builder) => builder with
    {
        Memory = Memory,
        Cpus = Cpus,
        Cpu = Cpu,
        Nested = Nested,
        Paravirtual = Paravirtual,
        TscFrequency = TscFrequency,
        EngineApics = EngineApics,
        DebugExit = DebugExit,
        TestDevice = TestDevice,
        Board = Board,
        Tablet = HasTablet,
        Display = HasDisplay ? DisplayKind.Standard : DisplayKind.None,
        CompactDiscs = CompactDiscs,
        Disks = Disks,
        Rng = Rng,
        Seed = Seed,
        KernelVersion = KernelVersion,
        Init = Init,
        Networks = Networks,
        Shares = Shares,
        Vsock = WithoutPath(Vsock),
        Balloon = Balloon,
        BootDevices = BootDevices,
        Identity = Identity,
        NoReboot = NoReboot,
        Guest = Guest,
        Bios = Bios,
        Kernel = Kernel,
        Initrd = Initrd,
        Modules = Modules,
        Append = Append,
        Command = Command,
        Environment = Environment,
        WorkingFolder = WorkingFolder,
        User = User,
    };

    /// <summary>The guest in a machine that gets its memory from elsewhere: nothing is loaded until a reset.</summary>
    /// <param name="again">What a reset boots.</param>
    public GuestImage ToImage(Func<GuestImage> again) => new(default, Kernel ?? Guest, [], CommandLine,
        Console is { } console ? new LinuxGuest(default, Guest, default, "", console, Token ?? "")
        {
            Waits = TakesCommandLate,
            FollowsSize = FollowsSize,
            LoadsModules = LoadsModules,
        }
        : null)
    {
        Firmware = RomSize > 0 ? new FirmwareImage(Bios ?? "", new byte[RomSize]) { FlashLength = FlashSize } : null,
        Again = again,
    };

    /// <summary>As UTF-8.</summary>
    public byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, s_options);

    /// <summary>Reads a description, and checks what it says by itself; the builder checks the rest.</summary>
    /// <exception cref="StateFormatException">It is none, or one of another version.</exception>
    public static MachineDescription Parse(ReadOnlySpan<byte> json)
    {
        MachineDescription? read;
        try
        {
            var reader = new Utf8JsonReader(json);
            if (JsonDocument.TryParseValue(ref reader, out JsonDocument? document))
            {
                using (document)
                {
                    if (document.RootElement.ValueKind == JsonValueKind.Object && document.RootElement.TryGetProperty(nameof(Version), out JsonElement version)
                        && version.TryGetInt32(out int number) && number != CurrentVersion)
                    {
                        throw new StateFormatException($"the machine is described in version {number} of the format, "
                            + $"which {(number > CurrentVersion ? "a newer" : "an older")} program wrote; this one knows version {CurrentVersion}");
                    }
                }
            }
            read = JsonSerializer.Deserialize<MachineDescription>(json, s_options);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or NotSupportedException)
        {
            throw new StateFormatException($"the description of the machine is damaged: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        if (read is null) throw new StateFormatException("the description of the machine is empty");
        // Older ones have none of these.
        read = read with
        {
            Shares = read.Shares ?? [],
            BootDevices = read.BootDevices ?? [],
            Identity = read.Identity ?? new(),
            Environment = read.Environment ?? [],
        };
        read.Check();
        return read;
    }

    private void Check()
    {
        StateCheck.Range(RomSize, 0, FirmwareImage.Largest, "description");
        StateCheck.Range(Cpus, 1, 1 << 16, "description");
        StateCheck.Range(Disks.Count + CompactDiscs.Count, 0, MostDevices, "description", "number of disks");
        StateCheck.Range(DiskShapes.Count, Disks.Count + CompactDiscs.Count, Disks.Count + CompactDiscs.Count, "description", "number of sizes of disks");
        StateCheck.Range(Networks.Count, 0, MostDevices, "description", "number of networks");
        StateCheck.Range(Shares.Count, 0, MostDevices, "description", "number of shared folders");
        if (FlashSize < 0 || FlashSize % (4 << 10) != 0 || FlashSize >= Math.Max(RomSize, 1))
            throw new StateFormatException($"description: FlashSize is {FlashSize}");
        if (RomSize % (4 << 10) != 0 || RomSize > 0 != Bios is not null)
            throw new StateFormatException("the description of the machine contradicts itself: firmware");
        if (TscFrequency == 0) throw new StateFormatException("the description of the machine has no frequency of the TSC");
        if (Console is null != Token is null || Token is { Length: 0 or > 64 } || Token?.Any(c => !char.IsAsciiLetterOrDigit(c)) == true)
            throw new StateFormatException("the description of the machine contradicts itself: console");
        foreach (string? text in (IEnumerable<string?>)[Engine, Cpu, Guest, Bios, Kernel, Initrd, Append, CommandLine, .. Modules, .. CompactDiscs,
            .. Command ?? [], WorkingFolder, User, .. Environment.SelectMany(v => (string?[])[v.Key, v.Value])])
        {
            if (text?.Length > LongestText || text?.Contains('\0') == true)
                throw new StateFormatException("the description of the machine has a text that is too long, or that ends early");
        }
        if (Environment.Any(v => v.Key is null || v.Value is null))
            throw new StateFormatException("the description of the machine has a variable that is none");
        foreach (DiskShape shape in DiskShapes)
        {
            const uint sector = 512;
            if (shape.Length == 0 || shape.Length % sector != 0 || shape.Granularity < sector || !BitOperations.IsPow2(shape.Granularity))
                throw new StateFormatException("the description of the machine has a disk that is none");
        }
        foreach (BootDevice kind in BootDevices) StateCheck.Defined(kind, "description");
        if (Identity.Problem is not null) throw new StateFormatException("the description of the machine has names that are none");
        if (Vsock?.Problem is not null) throw new StateFormatException("the description of the machine has a socket device that is none");
        StateCheck.Defined(Board, "description");
        foreach (VmDisk disk in Disks) StateCheck.Defined(disk.Bus, "description");
        foreach (VmShare share in Shares)
        {
            StateCheck.Defined(share.Kind, "description");
            StateCheck.Defined(share.Owners, "description");
            StateCheck.Defined(share.Cache, "description");
        }
    }

    /// <summary>By name: a number is none.</summary>
    private static JsonStringEnumConverter<T> Names<T>() where T : struct, Enum => new(namingPolicy: null, allowIntegerValues: false);

    /// <summary>What is not there would be nothing, whatever the type says that it is by default: of the machine's parts all is there.</summary>
    private static void RequireParts(JsonTypeInfo type)
    {
        // Snapshots from before it had a name have no such member.
        const string later = nameof(VmDisk.StopsWhenFull);
        if (type.Kind != JsonTypeInfoKind.Object || type.Type == typeof(MachineDescription)) return;
        foreach (JsonPropertyInfo p in type.Properties)
        {
            bool mayBeNull = Nullable.GetUnderlyingType(p.PropertyType) is not null || !p.PropertyType.IsValueType && p.IsSetNullable;
            if (!mayBeNull && p.Name != later && (p.Set is not null || p.AssociatedParameter is not null)) p.IsRequired = true;
        }
    }

    private abstract class TextConverter<T> : JsonConverter<T> where T : class
    {
        protected abstract string Write(T value);
        protected abstract T? Read(string text);

        public sealed override T Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
            reader.TokenType == JsonTokenType.String && Read(reader.GetString()!) is { } value ? value
                : throw new JsonException($"no {typeof(T).Name}");

        public sealed override void Write(Utf8JsonWriter writer, T value, JsonSerializerOptions options) => writer.WriteStringValue(Write(value));
    }

    private sealed class AddressConverter : TextConverter<IPAddress>
    {
        protected override string Write(IPAddress value) => value.ToString();
        protected override IPAddress? Read(string text) => IPAddress.TryParse(text, out IPAddress? value) ? value : null;
    }

    private sealed class EndPointConverter : TextConverter<IPEndPoint>
    {
        protected override string Write(IPEndPoint value) => value.ToString();
        protected override IPEndPoint? Read(string text) => IPEndPoint.TryParse(text, out IPEndPoint? value) ? value : null;
    }

    private sealed class CardAddressConverter : TextConverter<PhysicalAddress>
    {
        protected override string Write(PhysicalAddress value) => value.ToString();
        protected override PhysicalAddress? Read(string text) =>
            text.Length == 12 && ulong.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out _) ? PhysicalAddress.Parse(text) : null;
    }
}

/// <summary>Made when the program is compiled: nothing of it has to be made for each type when it runs.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Strict)]
[JsonSerializable(typeof(MachineDescription))]
internal sealed partial class MachineDescriptionJson : JsonSerializerContext;
